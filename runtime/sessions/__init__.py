"""One module a backend; each is imported only when it is opened."""
