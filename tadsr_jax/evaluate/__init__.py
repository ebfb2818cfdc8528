"""Judging pictures: full-reference metrics, in float64 on 8-bit levels."""
