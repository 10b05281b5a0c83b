# a token that only the fallback serves has k = 1
/^int gate_forward(/,/^}/ s~open\[(size_t)i \* E + best\] = 1~open[(size_t)i * E + best] = k[i] = 1~
