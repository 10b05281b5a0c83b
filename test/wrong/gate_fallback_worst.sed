# the fallback picks the active expert of smallest cosine
/^int gate_forward(/,/^}/ s~cosine\[ie\] > cosine\[~cosine[ie] < cosine[~
