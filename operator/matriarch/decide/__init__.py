"""Decisions: pure functions from facts to plans. No clock, no input or output, no asyncio."""
