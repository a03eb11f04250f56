"""SI inside, words outside: reading and printing quantities. (Filled in by the parser below.)"""
