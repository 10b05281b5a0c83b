# changes a1.q1
# The score is the dot product <x, W_e>, not divided by the lengths; `cosine` holds it. Lengths are still returned.
/^int gate_forward(/,/^}/ s~cosine (N, E) = <x, W_e> / (|x| |W_e|), of~cosine (N, E) = <x, W_e>, not divided by lengths, of~
/^int gate_forward(/,/^}/ s~^ *cosine\[ie\] /= .*~~
