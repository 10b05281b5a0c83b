# backward gets the output of the GELU where its input belongs
/^void experts_backward(/,/^}/ s~pre + r \* H, (size_t)n \* H~act + r * H, (size_t)n * H~
