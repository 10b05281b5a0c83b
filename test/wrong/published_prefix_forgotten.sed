# files whose names begin with transformer. are not recognised
/^const char\* published_prefix(/,/^}/ s~"transformer\.wte\.weight") ? "transformer\."~"transformer.wte.weight") ? ""~
