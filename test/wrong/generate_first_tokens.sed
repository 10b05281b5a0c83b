# the context is the first tokens of the text instead of the last
/^void generate(/,/^}/ s~tokens + n - t, NULL~tokens, NULL~
