"""Running the model beside a live kernel and comparing after every step."""
