# --val-tokens does nothing
/^float evaluate(/,/^}/ s~max_tokens > 0 && windows~0 \&\& windows~
