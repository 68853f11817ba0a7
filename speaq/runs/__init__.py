"""A trained run, used from its folder: evaluated, converted, compared."""
