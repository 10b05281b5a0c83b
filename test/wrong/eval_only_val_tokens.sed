# --dump-routing stops at --val-tokens
/^int main(/,/^}/ s~\*s\.dump_routing ? 0 : (size_t)s\.val_tokens~(size_t)s.val_tokens~
