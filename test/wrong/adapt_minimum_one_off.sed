# a layer keeps one expert more than the minimum
/^int adapt_update(/,/^}/ s~>= min_experts~> min_experts~
