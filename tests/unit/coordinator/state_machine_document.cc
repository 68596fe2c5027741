// Prints docs/state-machine.md.
#include <iostream>

#include "coordinator/core/transition_table.h"

int main() { std::cout << vlm::coordinator::StateMachineMarkdown(); }
