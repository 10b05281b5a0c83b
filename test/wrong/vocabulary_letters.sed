# the letters of bytes 127 to 160 are one off
/^int letter_byte(/,/^}/ s~94 + c~93 + c~
