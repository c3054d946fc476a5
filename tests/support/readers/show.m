% A line for each file named on the command line: size, class, and the values in C order.
for path = argv()'
  try
    array = read_npy(path{1});
    values = permute(array, ndims(array):-1:1);
    values = values(:);
    if iscomplex(values), values = [real(values), imag(values)].'(:); end
    if isinteger(values) && ~isempty(values)
      text = evalc('disp(values)');  % printf would go by way of a double
    else
      text = sprintf('%.17g ', values);
    end
    printf('%s|%s|%s\n', num2str(size(array)), class(array), strrep(text, "\n", ' '));
  catch failure
    printf('error|%s\n', failure.message);
  end
end
