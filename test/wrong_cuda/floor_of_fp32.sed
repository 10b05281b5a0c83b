# MFU in fp32
/^double floor_share(/,/^}/ s~is_bf16 \&\& ~~
