"""Both networks evaluated at points in fixed point, to as many places as their depth asks for."""
