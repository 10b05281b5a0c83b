# never mirrored
/^View view_random(/,/^}/ s~v\.flip = s->flip && random_u32(rng) % 2~v.flip = s->flip \&\& random_u32(rng) % 2 > 1~
