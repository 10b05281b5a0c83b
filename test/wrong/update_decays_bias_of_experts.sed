# the second biases of experts decay
/^    X(fcprojb,  "moe\./ s~ZEROS,      0~ZEROS,      1~
