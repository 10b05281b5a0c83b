# through the softmax without the sum that its normalisation takes away
/^void attention_backward(/,/^}/ s~(da\[(size_t)i \* T + j\] - sum)~da[(size_t)i * T + j]~
