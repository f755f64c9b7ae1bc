"""How good models are, and what follows from it: backtest, calibration, ensemble, champion, drift."""
