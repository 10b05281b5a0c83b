# what follows is started on the lane of the last expert
/^void lanes_join(/,/^}/ s~lane = lanes;~;~
