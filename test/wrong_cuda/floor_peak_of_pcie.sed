# an H100 of another kind has the peak of SXM
/^double peak_of(/,/^}/ s~strstr(name, "PCIe") == NULL \&\& ~~
