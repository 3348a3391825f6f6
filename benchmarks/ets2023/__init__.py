"""The experiment of the report that rcopt comes from (ETS Montréal, 2023), repeated."""
