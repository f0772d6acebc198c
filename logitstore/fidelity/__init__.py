"""A store against the live teacher: is what is stored what the teacher says, row by row?"""
