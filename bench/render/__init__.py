"""The report for people and for CI: HTML, Markdown, JUnit, SARIF."""
