"""Benchmarks: what is measured, by which command, beside what a peer published."""
