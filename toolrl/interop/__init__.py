"""Neighbours' environments as environments of toolrl, and toolrl's as theirs."""
