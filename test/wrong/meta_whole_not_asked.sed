# a size of 2.5 in a model file is taken for 2
/^double meta_number(/,/^}/ s~ \&\& (!whole || x == floor(x))~~
