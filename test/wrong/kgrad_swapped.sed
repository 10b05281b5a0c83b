# detached means normalised and the reverse
/^Config config_make(/,/^}/ s~{"detached", "normalised"}~{"normalised", "detached"}~
