"""Why a student is worse than it should be: what is measured of a run, and what that says."""
