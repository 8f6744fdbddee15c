"""Restore drills: a backup is brought back into a throwaway instance, replayed, checked, timed and thrown away."""
