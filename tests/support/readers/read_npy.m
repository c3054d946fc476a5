function array = read_npy(path)
% An array of numbers or logicals from a .npy file. For GNU Octave and MATLAB alike.
  file = fopen(path, 'r', 'ieee-le');
  if file < 0, error('cannot be opened: %s', path); end
  cleanup = onCleanup(@() fclose(file));
  start = fread(file, 8, '*uint8')';
  if numel(start) < 8 || ~isequal(start(1:6), uint8([147 'NUMPY']))
    error('not a .npy file: %s', path);
  end
  lengths = {'uint16', 'uint32', 'uint32'};
  header = fread(file, fread(file, 1, lengths{start(7)}), '*char')';
  type = regexp(header, '''descr'': *''[<>|](b1|[iu][1248]|f[248]|c8|c16)''', 'tokens', 'once');
  if isempty(type), error('not an array of numbers: %s', path); end
  classes = struct('b1', 'uint8', 'i1', 'int8', 'u1', 'uint8', 'i2', 'int16', 'u2', 'uint16', ...
    'i4', 'int32', 'u4', 'uint32', 'i8', 'int64', 'u8', 'uint64', 'f2', 'uint16', ...
    'f4', 'single', 'f8', 'double', 'c8', 'single', 'c16', 'double');
  orders = {'ieee-le', 'ieee-be'};
  order = orders{1 + ~isempty(regexp(header, '''descr'': *''>', 'once'))};
  shape = regexp(header, '''shape'': *\(([^)]*)\)', 'tokens', 'once');
  shape = sscanf(strrep(shape{1}, ',', ' '), '%d')';
  count = prod(shape) * (1 + (type{1}(1) == 'c'));
  values = fread(file, count, ['*' classes.(type{1})], 0, order);
  if numel(values) < count, error('cut short: %s', path); end
  switch type{1}
    case 'b1', values = logical(values);
    case 'f2', values = half(double(values));
    case {'c8', 'c16'}, values = complex(values(1:2:end), values(2:2:end));
  end
  shape = [shape, ones(1, 2 - numel(shape))];  % a matrix at least
  if ~isempty(regexp(header, '''fortran_order'': *True', 'once'))
    array = reshape(values, shape);
  else
    array = permute(reshape(values, fliplr(shape)), numel(shape):-1:1);
  end
end

function values = half(bits)
  exponent = mod(floor(bits / 1024), 32);
  fraction = mod(bits, 1024);
  values = (fraction + 1024 * (exponent > 0)) .* 2 .^ (max(exponent, 1) - 25);
  values(exponent == 31 & fraction == 0) = Inf;
  values(exponent == 31 & fraction > 0) = NaN;
  values(bits >= 32768) = -values(bits >= 32768);
end
