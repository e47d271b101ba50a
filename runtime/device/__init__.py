"""A device's folder of bundles: install, activate after a self-test, roll back, whatever is interrupted."""
