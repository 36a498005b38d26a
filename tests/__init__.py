"""A regular package, so that started processes find it before another distribution's `tests` folder."""
