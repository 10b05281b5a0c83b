# a gate opens at its threshold already, not above it
/^int gate_forward(/,/^}/ s~cosine\[ie\] > G\[e\];~cosine[ie] >= G[e];~
