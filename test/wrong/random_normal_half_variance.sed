# Box-Muller without the 2 in front of the logarithm: variance 1/2
/^double random_normal(/,/^}/ s~-2\.0 \* log(u)~-1.0 * log(u)~
