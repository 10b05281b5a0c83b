# of two equally near experts the fallback takes the higher number
/^int gate_forward(/,/^}/ s~cosine\[ie\] > cosine\[~cosine[ie] >= cosine[~
