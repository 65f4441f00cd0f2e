"""Noise schedules: decreasing sigmas as float64 host arrays, ending in 0 unless asked otherwise.

Every constructor takes the number of noise levels to evaluate first, and ``final_zero`` last.
"""
