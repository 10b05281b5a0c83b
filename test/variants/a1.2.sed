# changes a1.q1
# The fallback opens the active expert for which cosine - G is largest, which is nearest to opening by itself.
/^int gate_forward(/,/^}/ s~opens the active expert of largest cosine; its~opens the active expert of largest cosine - G; its~
/^int gate_forward(/,/^}/ s~cosine\[ie\] > cosine\[(size_t)i \* E + best\]~cosine[ie] - G[e] > cosine[(size_t)i * E + best] - G[best]~
