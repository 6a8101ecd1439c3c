"""The screens of the app, one file each; a screen asks the views for its rows and hands keys to actions."""
