# the two layernorms of a layer are swapped
/^const SafeTensor\* weights_find(/,/^}/ s~"ln_2\.weight"~"ln_1.weight"~
