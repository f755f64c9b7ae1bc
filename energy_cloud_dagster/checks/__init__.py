"""Great Expectations suites as asset checks: they warn before dispatch and block before money moves."""
