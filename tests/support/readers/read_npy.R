# An array of numbers or logicals from a .npy file.
# R has no integers of 64 bits: they come as doubles, rounded beyond 2^53.
read_npy <- function(path) {
  file <- file(path, "rb")
  on.exit(close(file))
  start <- readBin(file, "raw", 8)
  if (!identical(start[1:6], as.raw(c(147, utf8ToInt("NUMPY"))))) stop("not a .npy file: ", path)
  first <- start[7] == 1
  header_length <- readBin(file, "integer", 1, if (first) 2 else 4, !first, "little")
  header <- rawToChar(readBin(file, "raw", header_length))
  group <- function(pattern) regmatches(header, regexec(pattern, header))[[1]][-1]
  descr <- group("'descr': *'([<>|])([biufc])([0-9]+)'")
  known <- c("b1", paste0(rep(c("i", "u"), each = 4), c(1, 2, 4, 8)), "f2", "f4", "f8", "c8", "c16")
  if (!paste(descr[-1], collapse = "") %in% known) stop("not an array of numbers: ", path)
  endian <- if (descr[1] == ">") "big" else "little"
  kind <- descr[2]
  itemsize <- as.integer(descr[3])
  shape <- as.numeric(regmatches(s <- group("'shape': *\\(([^)]*)\\)"), gregexpr("[0-9]+", s))[[1]])
  bytes <- readBin(file, "raw", prod(shape) * itemsize)
  if (length(bytes) < prod(shape) * itemsize) stop("cut short: ", path)
  floats <- function(size) readBin(bytes, "numeric", length(bytes) / size, size, endian = endian)
  values <- switch(kind,
    b = bytes != 0,
    i = integers(bytes, itemsize, endian, signed = TRUE),
    u = integers(bytes, itemsize, endian, signed = FALSE),
    f = if (itemsize == 2) halves(integers(bytes, 2, endian, signed = FALSE)) else floats(itemsize),
    c = {
      parts <- floats(itemsize / 2)
      complex(real = parts[c(TRUE, FALSE)], imaginary = parts[c(FALSE, TRUE)])
    }
  )
  if (length(shape) == 0) return(values) # R has no arrays without dimensions
  if (grepl("'fortran_order': *True", header)) array(values, shape) else aperm(array(values, rev(shape)))
}

integers <- function(bytes, itemsize, endian, signed) {
  bytes <- matrix(as.numeric(bytes), itemsize)
  if (endian == "big") bytes <- bytes[itemsize:1, , drop = FALSE]
  if (signed) bytes[itemsize, ] <- bytes[itemsize, ] - 256 * (bytes[itemsize, ] >= 128)
  half <- function(rows) colSums(bytes[rows, , drop = FALSE] * 256^(seq_along(rows) - 1))
  # Both halves of eight bytes are exact, so their sum is rounded once.
  if (itemsize == 8) half(5:8) * 2^32 + half(1:4) else half(seq_len(itemsize))
}

halves <- function(bits) {
  exponent <- bits %/% 1024 %% 32
  fraction <- bits %% 1024
  size <- (fraction + 1024 * (exponent > 0)) * 2^(pmax(exponent, 1) - 25)
  size[exponent == 31] <- ifelse(fraction[exponent == 31] == 0, Inf, NaN)
  size * (1 - 2 * (bits >= 32768))
}
