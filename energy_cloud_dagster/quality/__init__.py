"""Great Expectations suites as code, and how to run them. Assets quarantine rows by them, checks report on them."""
