"""Published cases in, errors out: what others measured against what we predict."""
