// Links only where libstdc++ and libgcc can be had static (QuestSingleFile.cmake).
#include <iostream>
#include <stdexcept>
#include <thread>

int main() {
  std::thread([] {}).join();
  try {
    throw std::runtime_error("caught");
  } catch (const std::exception& error) {
    std::cout << error.what() << "\n";
  }
}
