# A line for each file named on the command line: dimensions, type, and the values in C order.
source("read_npy.R")
for (path in commandArgs(trailingOnly = TRUE)) {
  tryCatch({
    array <- read_npy(path)
    values <- as.vector(if (is.null(dim(array))) array else aperm(array))
    if (is.complex(values)) values <- as.vector(rbind(Re(values), Im(values)))
    cat(dim(array))
    cat("|", typeof(array), "|", sep = "")
    cat(sprintf("%.17g", as.numeric(values)))
    cat("\n")
  }, error = function(failure) cat("error|", conditionMessage(failure), "\n", sep = ""))
}
