"""The assets in flow order. Each is thin: load, call the domain, save, report metadata.

readings → marts → forecasts → dispatch → market → settlement → evidence
"""
