# the first weights of experts do not decay
/^    X(fcw,      "moe\./ s~NORMAL,     1~NORMAL,     0~
