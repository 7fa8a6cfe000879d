"""Rewards for mathematics: formulas read by math-verify's grammar, and compared exactly."""
