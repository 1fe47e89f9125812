"""Measures: functions of feature matrices and pictures."""
