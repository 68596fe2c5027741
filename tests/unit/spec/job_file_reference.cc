// Prints the reference of the job file: job_file_reference > docs/job-file.md
#include <iostream>

#include "spec/schema.h"

int main() { std::cout << vlm::spec::ReferenceMarkdown(); }
